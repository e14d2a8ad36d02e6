"""One granted connection: batches read, sealed and stored, from the claim to the release."""
