"""Studies of what is published about learning rates: configs/studies/ has their configs.

A module here, of the name of its config, turns the trials of a study into claims and a figure:

  claims(tables) -> claims     what the study found, as sentences with numbers and intervals
  figures(tables) -> figures   Matplotlib figures by name
  columns(study) -> arrays     optional: further columns of the table of a part, each (trials,)
  CURVES                       optional: names of curves that tables keep
  measured(folder, full) -> tables   optional: further tables, computed in the study's folder

`tables` holds a `Table` for each part of the study, by its name. They are what is committed under
results/, so claims and figures are made from them alone.
"""
