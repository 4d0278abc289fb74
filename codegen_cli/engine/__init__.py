"""Token ids -> logits: mapped weights, KV cache, the thread team and the compiled kernels."""
