"""This project on texts, by their length: a validated day, scored and committed."""

from benchmarks.columns.sequences_night import measure

if __name__ == "__main__":
    measure()
