"""An experiment: teachers, students and twins, and what was measured of them."""
