"""A trained model to a user's machine: export, runtime, benchmark."""
