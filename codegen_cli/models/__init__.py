"""Model names -> files: what the hub has, what is downloaded and packed, which one runs."""
