"""What is a model, without running it?"""
