"""What is learned: functions from parameters and a batch to a loss."""
