"""The packed file: its layout, its header, its reader and its writer."""
