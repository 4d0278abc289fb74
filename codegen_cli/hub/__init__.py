"""models.toml, and a model of it -> its checkpoint in the Hugging Face cache."""
