"""The one exception people meet: a sentence that says what is wrong and what to do."""


class MarginalsError(Exception):
    """Something a person can put right. The message is one sentence that names the remedy.

    The command line prints the message without a traceback and exits with code 2.
    """
