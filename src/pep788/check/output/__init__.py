"""How a report is written: for people, for programs, for code hosts."""
