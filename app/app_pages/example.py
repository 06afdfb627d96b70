"""Being written."""

import streamlit as st

st.caption("Being written.")
