"""Many experiments of one config: what differs, who runs which, what they share."""
