"""What holds between a text and whatever computes for it: deadlines, the release."""
