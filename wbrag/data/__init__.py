"""Whatever users have, in: corpora and questions, checked; what cannot be read is set aside with file, line, reason."""
