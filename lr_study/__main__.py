"""`python -m lr_study COMMAND`, the same as `lr-study COMMAND`."""

from lr_study.commands import main

main()
