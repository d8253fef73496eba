"""What the client needs of paho beyond its public interface, and how it imports paho cheaply."""
