"""Every method as a value, what composes with them, and the kinds they are values of."""
