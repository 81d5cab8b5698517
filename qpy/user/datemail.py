"""qpy-datemail, as the caller: sendmail for a message that gets a Date field in local time.

qpy-datemail [sendmail's options] [recipient ...]       exit codes as of sendmail
"""
from qpy.user import predate


def main(home, args):
    return predate.main(home, [home + b'/bin/qpy-sendmail', *args])
