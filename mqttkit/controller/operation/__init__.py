"""What an operator does with running controllers."""
