"""What shoppers did and were shown: logs, rights, quarantine, and what is learned of it at once."""
