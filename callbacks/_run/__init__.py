"""What only callbacks use: driving a round, drawing with the module in training, lines and bars."""
