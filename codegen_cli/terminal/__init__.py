"""The standard streams: results on stdout; notes, errors and bars on stderr; where they lead."""
