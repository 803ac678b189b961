"""What every room may use: errors, files, log lines, means, command lines."""
