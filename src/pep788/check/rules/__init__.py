"""One rule, one file, one page in docs/rules, one test file."""
