"""What is measured from pixels, and how claims are made from it."""
