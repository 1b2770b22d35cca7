"""What asman costs, as ratios measured side by side in one run.

    python -m bench                 everything; prints a table and keeps it in bench/results/ with the date
    python -m bench submit blobs    some of it

A machine that others share changes its speed by the minute. So each comparison runs its sides in turn, round after
round, and quotes the median of the rounds; cost is CPU time of the server process, which such noise moves least.
"""
