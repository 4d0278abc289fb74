"""Lines of a batch -> their answers, by workers on a Ray cluster: the same bytes as from here."""
