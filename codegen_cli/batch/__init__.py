"""A file of prompts -> a file of answers, line by line, the same bytes however they are made."""
