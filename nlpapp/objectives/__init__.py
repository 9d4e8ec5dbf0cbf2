"""(model, batch) to a loss: what is trained, without knowing which model trains it."""
