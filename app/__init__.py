"""The dashboard: `streamlit run app/streamlit_app.py`. Pages draw what core/views computes and core/plots builds."""
