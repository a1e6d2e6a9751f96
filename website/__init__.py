"""The documentation as a site: pages that are made from the code, and how all are gathered.

`make reference` writes the pages into `docs/reference`, where a test compares them with
the code; `make docs` builds the site, in which every link must lead somewhere.
"""
