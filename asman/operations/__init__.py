"""What can be done with jobs and blobs, whoever asks and over whatever wire.

Each function takes ``Services`` and plain values, checks them, takes its steps and answers with plain values. HTTP
and socket code call these and hold no rule of their own, so a route can be served by a thinner path without a
second copy of anything.
"""

from asman.operations.blobs import (
    BlobBody,
    download_link,
    has_blob,
    output_keys,
    own_blob_key,
    read_blob,
    stat_blob,
    store_blob,
    upload_link,
)
from asman.operations.end import CANCEL_TEXT, cancel, delete
from asman.operations.load import QueueLoad, queue_load
from asman.operations.logs import BUILD_STEPS, LogPage, half_of, keep_lines, read_lines, read_lines_of
from asman.operations.lookup import (
    Candidate,
    find_job,
    find_result,
    get_job,
    list_jobs,
    read_definition_of,
    read_result_of,
    why,
)
from asman.operations.step import Step, step, topic
from asman.operations.submit import (
    Control,
    Receipt,
    Submission,
    copy,
    expiry,
    read_control,
    read_submission,
    replace_now,
    submit,
)
from asman.operations.work import (
    announce,
    claim,
    give_back,
    lease_end,
    outcome_of,
    release,
    renew,
    report,
    rescue,
    running_on,
    shorten_lease,
)

__all__ = [
    "BUILD_STEPS",
    "CANCEL_TEXT",
    "BlobBody",
    "Candidate",
    "Control",
    "LogPage",
    "QueueLoad",
    "Receipt",
    "Step",
    "Submission",
    "announce",
    "cancel",
    "claim",
    "copy",
    "delete",
    "download_link",
    "expiry",
    "find_job",
    "find_result",
    "get_job",
    "give_back",
    "half_of",
    "has_blob",
    "keep_lines",
    "lease_end",
    "list_jobs",
    "outcome_of",
    "output_keys",
    "own_blob_key",
    "queue_load",
    "read_blob",
    "read_control",
    "read_definition_of",
    "read_lines",
    "read_lines_of",
    "read_result_of",
    "read_submission",
    "release",
    "renew",
    "replace_now",
    "report",
    "rescue",
    "running_on",
    "shorten_lease",
    "stat_blob",
    "step",
    "store_blob",
    "submit",
    "topic",
    "upload_link",
    "why",
]
