"""What of this machine may this process use?"""
