"""What is run from a checkout: training, its configurations, and the commands around them."""
