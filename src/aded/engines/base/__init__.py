"""What all engines share: options, cost files, certificates, recorded answers, and what the command line runs."""
