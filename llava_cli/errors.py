"""Everything a user can mend, as one tree. `llava_cli.cli.main` is the only place that shows it.

LlavaError                  1   unexpected
├── UsageError              2   the command line makes no sense
├── UnreadablePicture       3   a picture that cannot be used
├── ModelUnusable           4   a model file that is wrong
│   └── ModelMissing        4   a model that is unknown or not on disk
├── DownloadFailed          5
├── ServerFailed            5   another server does not answer
├── NotEnoughRoom           6   memory or disk
├── EngineFailed            7   llama.cpp or another server gave up, or gave something that cannot be right
│   ├── ContextTooSmall     7   the prompt does not fit
│   └── Busy                7   too many wait for the same model
├── AnswerUnfit             8   the answer is not what was asked for: a schema, or that of last time
├── LogUnusable             1   the log cannot be read or written
├── RunIncomplete           9   a run that ended with failures
└── Stopped               130   the user pressed Ctrl-C
"""

EXIT_CODES = {
    0: "the answer is there",
    1: "unexpected: a bug, or stdout cannot be written",
    2: "usage: the command line makes no sense",
    3: "a picture that cannot be used",
    4: "a model that is missing, unknown or unusable",
    5: "a download or another server failed",
    6: "not enough memory or disk",
    7: "the engine failed, or its context is too small",
    8: "the answer does not satisfy its schema, or a replayed one is another",
    9: "a run has ended, and some of its pictures have no answer",
    10: "and above, only with --exit-code: 10 and the place of the choice, from 0; the first choice is 0",
    130: "interrupted by Ctrl-C",
    141: "the reader of stdout has left",
    143: "terminated",
}


class LlavaError(Exception):
    """Carry what went wrong (`what`), why (`why`), and the step that mends it (`hint`)."""

    exit_code = 1

    def __init__(self, what: str, why: str, *, hint: str = "") -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.hint = hint


GENERAL_HINT = "llava --help, llava ask --help"


class UsageError(LlavaError):
    exit_code = 2

    def __init__(self, what: str, why: str, *, hint: str = GENERAL_HINT) -> None:
        super().__init__(what, why, hint=hint)


class UnreadablePicture(LlavaError):
    exit_code = 3


class ModelUnusable(LlavaError):
    exit_code = 4


class ModelMissing(ModelUnusable):
    exit_code = 4


class DownloadFailed(LlavaError):
    exit_code = 5


class ServerFailed(LlavaError):
    exit_code = 5


class NotEnoughRoom(LlavaError):
    exit_code = 6


class EngineFailed(LlavaError):
    exit_code = 7


class ContextTooSmall(EngineFailed):
    exit_code = 7


class Busy(EngineFailed):
    """Say after how many seconds it is worth asking again."""

    exit_code = 7

    def __init__(self, what: str, why: str, *, seconds: int) -> None:
        super().__init__(what, why, hint=f"ask again in {seconds} s")
        self.seconds = seconds


class AnswerUnfit(LlavaError):
    exit_code = 8


class LogUnusable(LlavaError):
    """The one error of this tree that never costs an answer."""


class RunIncomplete(LlavaError):
    exit_code = 9


class Stopped(LlavaError):
    exit_code = 130


class ReaderGone(LlavaError):
    exit_code = 141
