"""The one exception that is meant for the user's eyes."""


class StudyError(Exception):
  """Something the user can mend: config, data or work directory. Ends as one line, status 2."""
