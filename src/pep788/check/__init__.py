"""`pep788 check`: finds code that calls into a Python that may be finalizing.

`cli` needs nothing that is not in the standard library; everything else needs the extra `check`.
"""
