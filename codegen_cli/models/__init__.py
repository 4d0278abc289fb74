"""Model names -> packed files: what is here, what is packed, which one runs."""
