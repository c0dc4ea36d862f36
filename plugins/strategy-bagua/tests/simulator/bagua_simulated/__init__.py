"""What the SIMULATOR of Bagua has behind Bagua's names."""
