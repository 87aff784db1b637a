"""Which learning rate? One network trained at many rates in one compiled program."""
