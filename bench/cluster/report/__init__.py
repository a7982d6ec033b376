"""What a run says: the results document, criteria, tables, the picture and the files."""
