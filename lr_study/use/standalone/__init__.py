"""What an exported model's folder holds and what checks it: nothing here imports lr_study."""
