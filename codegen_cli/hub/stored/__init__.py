"""The Hugging Face cache on this disk, as far as it goes without the hub's client."""
