"""What tests share: real servers on free ports, and pictures to send."""
