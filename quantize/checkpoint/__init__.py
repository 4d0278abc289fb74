"""A directory -> the checkpoint in it: tensors, tokenizer, added tokens."""
