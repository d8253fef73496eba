"""A live view of a broker: topics with rates and values, what a view shows of them, and what a user can change."""
