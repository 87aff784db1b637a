"""Files of an exported model's folder, and its check. Nothing here imports lr_study."""
