"""What holds between a text and whatever computes for it: engines, streams, deadlines."""
