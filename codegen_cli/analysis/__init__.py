"""What a model makes of a text: likelihoods and vectors, over windows of a long one."""
