"""What a checkpoint says it is: its config, and the tensors that a config asks for."""
