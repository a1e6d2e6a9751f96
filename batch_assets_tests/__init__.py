"""The tests, one file for each module, and the toys that they play with.

Threads that wait for one another sleep: GNU's OpenMP, which torch computes with, lets them
spin, so that two processes of two threads each on two cores took thirty times the time.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
