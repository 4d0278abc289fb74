"""A model's entry -> its checkpoint in the Hugging Face cache: fetched, found, hashed, removed."""
